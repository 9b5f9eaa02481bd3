forebay bench --help
