"""The work of ``gpu-reml-predict``: read, predict, write."""

from importlib.metadata import version
from pathlib import Path

import numpy as np

from gpu_reml import io, ops
from gpu_reml.io.model_file import read_model
from gpu_reml.reports.page import page_text

from .flags.compute import Device
from .flags.effects import Matching
from .flags.predict import NewTables, Pieces, Predicted, PredictOutput
from .outputs import PREDICTION_FILES, check_outputs, log_text, outputs_of
from .parser import CommandLine
from .pictures import check_reportable
from .predict_files import prediction_files, prediction_lines, prediction_record, prediction_table
from .predict_run import Scoring, check_asked, predict, read_new_data
from .provenance import provenance
from .unused import PREDICT, Decided, notes_on_flags


def model_file(path: str) -> str:
    """The file that ``--save-model path`` wrote: it may have added .npz."""
    return f"{path}.npz" if not Path(path).exists() and Path(f"{path}.npz").exists() else path


def predict_command(line: CommandLine) -> bool:
    """Predict and write two files; True, as there is nothing to converge."""
    asked, tables, output = (kind.of(line.values) for kind in (Predicted, NewTables, PredictOutput))
    pieces, device = Pieces.of(line.values), Device.of(line.values)
    io.check_writable(output.out)
    check_reportable(output.report)
    check_asked(asked, tables)
    model = read_model(model_file(asked.model))
    data = read_new_data(model, pieces, tables, asked)
    written = outputs_of(PREDICTION_FILES, [(output.out, f"--out {output.out}")])
    check_outputs(written, line, [path for file in data.files for path in file.paths])
    scoring = Scoring(
        pieces.dosage,
        Matching.of(line.values).ambiguous,
        asked.genetic_only,
        ops.resolve_backend(device.named_device),
        np.dtype(device.dtype).type,
    )
    found = predict(model, data, scoring)
    found = found._replace(notes=(*found.notes, *notes_on_flags(line, PREDICT, Decided())))
    context = {"model_file": asked.model, "settings": line.values, "run": provenance(line)}
    record = prediction_record(output.out, model, found, context)
    files = prediction_files(output.out, found, record)
    if output.report:
        values = prediction_table(found)
        files[f"{output.out}.prediction.report.html"] = page_text({**record, "predictions": values})
    told = prediction_lines(model, found)
    files[f"{output.out}.prediction.log"] = log_text("gpu-reml-predict", told)
    io.write_all(files)
    if not output.quiet:
        print("\n".join([f"gpu-reml-predict {version('gpu-reml')}", *told]))
        print(f"written: {output.out}{{{','.join(path.removeprefix(output.out) for path in files)}}}", flush=True)
    return True
