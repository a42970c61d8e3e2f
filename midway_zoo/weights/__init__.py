"""Where weights come from: released files, the package's own files, the manifest."""
