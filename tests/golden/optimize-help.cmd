strata optimize --help
