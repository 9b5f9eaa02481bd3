strata serve --help
