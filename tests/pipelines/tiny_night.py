"""The smallest simulated survey the real stages can work on, and how to compare what runs make of it."""

import numpy as np
from lsst.daf.butler import Butler

from nightlab.data.ingest import ingest
from nightlab.pipelines.night import TEMPLATES_RUN
from nightlab.simulate import SurveyConfig

SURVEY = SurveyConfig(
    width=320,
    height=320,
    gap=0,
    amp_columns=2,
    n_template=2,
    n_science=3,
    dither=4.0,
    star_density=150.0,
    star_bright=17.0,
    galaxy_density=40.0,
    n_transients=20,
    n_variables=5,
    n_movers=2,
    n_satellites=0,
    cosmic_rays=10.0,
)
TEMPLATE_VISITS, VISITS = (101, 102), (4101, 4102, 4401)
INPUTS = (TEMPLATES_RUN, "SimCam/raw", "SimCam/calib", "refcats", "skymaps")
TABLES = ("source", "dia_source_unassociated", "dia_source", "dia_object", "dia_forced_source")


def tables(repository, output_run):
    """Every table of a run by name and data id, to the last bit."""
    found = {}
    with Butler.from_config(str(repository)) as butler:
        known = {kind.name for kind in butler.registry.queryDatasetTypes(TABLES)}
        for name in sorted(known):
            for ref in butler.query_datasets(name, collections=output_run, explain=False):
                table = butler.get(ref)
                found[name, tuple(ref.dataId.required_values)] = {
                    column: (
                        str(table[column].unit),
                        np.ma.getmaskarray(table[column]).tobytes(),
                        table[column].tolist()
                        if table[column].dtype.kind == "O"
                        else np.asarray(table[column]).tobytes(),
                    )
                    for column in table.colnames
                }
    return found


def rows(repository, output_run, name):
    """How many rows the tables of a name have together."""
    with Butler.from_config(str(repository)) as butler:
        refs = butler.query_datasets(name, collections=output_run, explain=False)
        return sum(len(butler.get(ref)) for ref in refs)


def stored(repository, output_run):
    """Names and data ids of all products in a run, and the files in its folder that belong to none of them."""
    with Butler.from_config(str(repository)) as butler:
        refs = (
            list(butler.query_all_datasets(output_run, find_first=False))
            if butler.collections.query(output_run)
            else []
        )
        files = {butler.getURI(ref).ospath for ref in refs if butler.stored(ref)}
        missing = [ref for ref in refs if not butler.stored(ref)]
    folder = repository / output_run
    stray = [str(file) for file in folder.rglob("*") if file.is_file() and str(file) not in files]
    assert not missing, f"registered and not there: {missing}"
    return {(ref.datasetType.name, tuple(ref.dataId.required_values)) for ref in refs}, stray


def replace_raw(repository, path):
    """Let the raw of one exposure be another file."""
    with Butler.from_config(str(repository), writeable=True) as butler:
        visit = int(path.stem.split("_")[0])
        refs = butler.query_datasets(
            "raw", collections="SimCam/raw", where=f"instrument='SimCam' AND exposure={visit}"
        )
        for ref in refs:
            butler.pruneDatasets([ref], disassociate=True, unstore=True, purge=True)
        [new] = ingest(butler, "SimCam", [path])
        assert butler.getURI(new).ospath == str(path)
