strata inspect --help
