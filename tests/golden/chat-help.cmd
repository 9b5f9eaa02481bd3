strata chat --help
