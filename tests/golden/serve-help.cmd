forebay serve --help
