"""An outcome of two classes is predicted from a table of patients."""
