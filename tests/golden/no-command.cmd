forebay
