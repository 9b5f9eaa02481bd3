forebay conjure
