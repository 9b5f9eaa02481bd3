forebay sim --help
