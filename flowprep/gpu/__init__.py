"""One process for each GPU computes the flow of many others, which decode and encode.

    parent (owner.py)                         child: decodes, encodes (child.py; its end of it is client.py)
      one GPUProcess a GPU,  -- a socket --->   frames ->  |  shared   |  -> levels, and some fields in px
      children take turns                        requests, answers, signs of life: JSON over the socket
            |                                               |
            +-- the other end of the socket -->  server.py, the process that sees the GPU, and no other
                                                   batching.py: requests that wait become one batch
                                                   hosted.py: which is computed and shared out

Decoding and JPEG take as many processes as there are processors; a GPU wants batches of many pairs. So children send
some grey frames at a time, and what waits at the same time, of several videos, is computed together. What comes back of
a field is what is stored of it, its levels; as float32 only rows whose error is measured.

A video that crashes its child does not touch the GPU's process. Where that ends, its children's videos are tried again.
Nothing has a name in a file system: sockets are made in pairs and handed over, frames and levels are in anonymous files
(memory.py). Whatever is killed, in whatever order, nothing is left behind.
"""
