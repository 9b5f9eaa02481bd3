strata bench --help
