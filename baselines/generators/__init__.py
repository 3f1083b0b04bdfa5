"""Image generators, which GLaD distils into the latents of: from a latent and a class to an image.

``base`` is what every generator offers, ``compact`` our own for small images, ``training`` what trains it,
``stylegan_xl`` the generator of StyleGAN-XL, ``files`` a generator on disk, and ``convert`` brings an
official StyleGAN-XL file into that form. Importing this package costs no torch; its modules do.
"""
