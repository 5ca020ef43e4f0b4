"""One job over a folder of hospitals on one machine, in one of several places."""
