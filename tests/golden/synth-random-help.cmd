forebay synth random --help
