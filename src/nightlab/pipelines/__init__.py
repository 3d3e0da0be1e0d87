"""The table of stages and the faces made from it: real PipelineTasks and a local runner with progress."""
