forebay --version
