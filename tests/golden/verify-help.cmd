forebay verify --help
