forebay profile --help
