"""A lab that studies how bars are tilted: one of every part that a package can add to medvlm."""
