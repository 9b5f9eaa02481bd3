strata profile --help
