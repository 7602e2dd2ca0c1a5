"""Regular expressions that can be generated: parser, nodes, values that are forbidden."""
