"""Classes of frontal chest X-rays are told apart."""
