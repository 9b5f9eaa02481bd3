strata run --help
