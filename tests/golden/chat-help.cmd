forebay chat --help
