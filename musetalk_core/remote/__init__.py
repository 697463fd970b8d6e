"""What talks to other machines. The registry's archive leaves this folder out."""
