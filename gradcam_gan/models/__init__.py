"""The networks: the paper's DCGAN, its class-conditional extension, DuDGAN's classifier, and the forward diffusion."""
