forebay optimize --help
