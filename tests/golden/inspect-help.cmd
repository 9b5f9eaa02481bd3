forebay inspect --help
