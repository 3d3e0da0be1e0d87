"""Between the outside world and our types: instruments, repositories, reference catalogues, the prompt database."""
