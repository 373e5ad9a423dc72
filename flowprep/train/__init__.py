"""Training, evaluating and fusing the streams of a two-stream recogniser (Simonyan and Zisserman, 2014).

    nets            the networks
    weights         weights that others published or that were trained before, read without running code
    inputs          batches of a dataset, augmented and normalised as a network expects them
    tasks           what each head learns, and which datasets it learns from
    loop            training one stream, from top to bottom
    schedule, learner, device, processes, validating, progress, run_folder      its parts
    log             what a run has written down, read without PyTorch
    checkpoint      what a run is continued and evaluated from
    torch_file      files of torch.save, read without running code
    scores          class scores of each video
    evaluate        scores by a trained stream
    learned_from    which videos a network has learned from
    fusion          scores of several streams made one
    report          a page that shows scores, confusions and curves
    paper           the results of the two-stream paper, to compare with
    remake          one video made into what a network was trained on
    predict         class scores of such a video

PyTorch and what else the extra ``train`` installs are imported here, and by flowprep.stacks.torch_loader.
"""
