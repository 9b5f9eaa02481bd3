strata --version
