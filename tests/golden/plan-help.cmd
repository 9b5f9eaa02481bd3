forebay plan --help
