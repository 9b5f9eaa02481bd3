strata sim --help
