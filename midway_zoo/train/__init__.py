"""The pretraining trainer (the ``train`` extra); ``import midway_zoo`` never imports it."""
