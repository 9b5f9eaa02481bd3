forebay run --help
