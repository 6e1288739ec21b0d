"""Extension: phi(W) = W + s dW, a new subspace is added."""
