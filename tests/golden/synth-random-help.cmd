strata synth random --help
