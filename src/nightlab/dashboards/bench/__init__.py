"""Parts of the workbench: where its inputs come from, the call of one stage, results side by side."""
