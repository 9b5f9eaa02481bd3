strata conjure
