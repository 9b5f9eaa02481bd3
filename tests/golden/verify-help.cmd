strata verify --help
