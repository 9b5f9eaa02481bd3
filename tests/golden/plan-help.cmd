strata plan --help
