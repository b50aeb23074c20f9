"""Components from files that name variants: lists of ids, tables of memberships, LDSC annotations."""

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from ..ops.chromosomes import are_human, chromosome_name
from .component_sets import AnalysedVariants, ComponentSet, component_set
from .components import check_names
from .content import Content, read_content
from .errors import InputError
from .headings import COMPONENT_NAMES, VARIANT_NAMES, key_of, variant_columns
from .ids import first_words
from .plausible import MOST_WEIGHT
from .text import WHITESPACE, TextTable, count_fields, read_text_table, text_table

MANY_POSITIONS = 10  # weights that equal so many different positions do so for a reason: they are positions
# @ may stand for these
SPELLINGS = (*map(str, range(1, 100)), *(f"0{k}" for k in range(1, 10)), "X", "Y", "XY", "M", "MT", "PAR1", "PAR2")


def name_of(path: Path) -> str:
    """A component's name from its file: the file's name without .gz and its last suffix."""
    return Path(path.name.removesuffix(".gz")).stem


def components_from_lists(paths: Sequence[str | Path], variants: AnalysedVariants) -> ComponentSet:
    """One component of weight 1 for each file of variant ids, called as the file without its suffix.

    One id a line, the first of its fields; a first line that begins with ID, SNP, variant_id or the like is a header,
    as is one of CHR, POS and other key columns (:mod:`.headings`), in which SNP or ID is the column of ids.
    Ids that are not analysed are counted in ``notes``.

    Raises:
        InputError: no such file, an empty one, an id twice or of several variants (with the line), or two files of one
            name.
    """
    rows, notes = [], []
    paths = [Path(path) for path in paths]
    check_names("variant lists", [name_of(path) for path in paths])
    for path in paths:
        table, first, id_column = _read_ids(path, "variant list", "a variant id", 1)
        ids = table.fields[id_column].iloc[first:]
        _check_once(table, ids, ids, "list it once")
        located = _locate(variants, ids, table, first, notes)
        rows.append(located[located >= 0])
    columns = np.repeat(np.arange(len(paths)), [len(found) for found in rows])
    names = [name_of(path) for path in paths]
    return component_set(names, np.concatenate(rows), columns, variants.num_variants, notes=notes)


def components_from_table(path: str | Path, variants: AnalysedVariants) -> ComponentSet:
    """Components from lines of ``variant_id component [weight]``, in the order of their first lines.

    A variant may be in several components; the weight is 1 where there is no third field.  A first line that begins
    with variant_id, ID, SNP or the like is a header; where it has other key columns (:mod:`.headings`) those named
    variant, component and weight are read, in any order.  Ids that are not analysed are counted in ``notes``.

    Raises:
        InputError: no such file, an empty one, columns of which it is not clear what they are, or a line (named) whose
            weight is negative or no number, whose variant was in that component before, or whose id is of several
            variants.
    """
    table, first, id_column = _read_ids(Path(path), "component table", "variant_id component [weight]", 2)
    columns = _table_columns(table, first, id_column)
    fields = table.fields.iloc[first:]
    ids, components = fields[columns["id"]], fields[columns["component"]]
    _check_once(table, ids, ids + "\t" + components, "give the variant one weight in a component")
    weights = np.ones(len(ids))
    if "weight" in columns:
        text = fields[columns["weight"]]
        weights = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        bad = ~((weights >= 0) & (weights <= MOST_WEIGHT))
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{table.where(first + row)}: variant {ids.iloc[row]}: expected a weight of 0 or more for component "
                f"{components.iloc[row]}, found {text.iloc[row]!r}; at most {MOST_WEIGHT:g}"
            )
    codes, names = pd.factorize(components)
    check_names(str(path), list(names))
    notes: list[str] = []
    located = _locate(variants, ids, table, first, notes)
    known = located >= 0
    return component_set(list(names), located[known], codes[known], variants.num_variants, weights[known], notes)


def annotation_files(pattern: str | Path) -> list[Path]:
    """The files of a name: one for each chromosome (1, 2, ..., X, Y, XY, MT, also 01, M, PAR1) where ``@`` stands in
    the chromosome's place, else the one of that name.

    Raises InputError when there is none, or two of one chromosome.
    """
    pattern = str(pattern)
    if "@" not in pattern:
        return [Path(pattern)]
    files = {name: Path(pattern.replace("@", name)) for name in SPELLINGS}
    files = {name: path for name, path in files.items() if path.is_file()}
    if not files:
        raise InputError(
            f"annotations {pattern}: no file of that name for any chromosome (@ is 1, 2, ..., X, Y, XY, MT)"
        )
    by_name: dict[str, Path] = {}
    for spelling, path in files.items():
        first = by_name.setdefault(chromosome_name(spelling, are_human(files)), path)
        if first != path:
            raise InputError(f"annotations {pattern}: {first} and {path} are of one chromosome; remove one of them")
    return list(by_name.values())


@dataclass(frozen=True)
class _Piece:
    """One annotation file: ``ids`` is None where it is thin."""

    text: TextTable
    names: list[str]
    ids: pd.Series | None
    weights: sparse.csr_array


def components_from_annotations(paths: Sequence[str | Path], variants: AnalysedVariants) -> ComponentSet:
    """Components from LDSC's annotation files: a header, then CHR BP SNP CM and one column of weights a component.

    Columns may be binary or continuous and may overlap; ``base`` is a column like any other.  Key columns are known by
    their usual names (:mod:`.headings`), wherever they are, and are no components.  Several files are pieces
    of one table (chromosomes) with the same columns.  Rows are matched by SNP, or one by one where the files list
    exactly the variants of the genotype files, as files without CHR BP SNP CM (``--thin-annot``) have to.

    Raises:
        InputError: no such file, other columns than the first file's, a line of another length, a weight that is
            negative or no number (naming variant, column and line), a variant twice, a thin file of another length, or
            a column that holds allele frequencies or the variants' positions.
    """
    pieces = [_read_annotation(Path(path)) for path in paths]
    first = pieces[0]
    for piece in pieces[1:]:
        if piece.names != first.names or (piece.ids is None) != (first.ids is None):
            raise InputError(
                f"{piece.text.path}: its columns are not those of {first.text.path}; give tables of other annotations "
                "apart"
            )
    weights = sparse.csr_array(sparse.vstack([piece.weights for piece in pieces], format="csr"))
    if first.ids is None:
        return _annotated(first, _thin_rows(pieces, weights, variants), variants)
    ids = pd.concat([piece.ids for piece in pieces], ignore_index=True)
    if len(ids) == variants.num_source and (ids.iloc[variants.rows].to_numpy() == variants.table["id"]).all():
        return _annotated(first, sparse.csr_array(weights[variants.rows]), variants)
    located, notes = _locate_pieces(pieces, ids, variants)
    known = np.flatnonzero(located >= 0)
    take = sparse.csr_array((np.ones(len(known)), (located[known], known)), shape=(variants.num_variants, len(ids)))
    return _annotated(first, sparse.csr_array(take @ weights), variants, notes)


def _annotated(
    piece: _Piece, weights: sparse.csr_array, variants: AnalysedVariants, notes: tuple[str, ...] = ()
) -> ComponentSet:
    """The components; InputError where a column is the variants' positions under a name that is not known for them."""
    bp = variants.table["bp"].to_numpy(np.float64)
    inside = np.flatnonzero(np.diff(weights.indptr))
    held = weights[inside].tocsc()
    if len(np.unique(bp[inside])) >= MANY_POSITIONS:
        for g, name in enumerate(piece.names):
            if np.array_equal(held[:, [g]].toarray()[:, 0], bp[inside]):
                raise InputError(
                    f"{piece.text.path}: column {name} holds the variants' positions, which would be variances; remove "
                    "it, or call it BP"
                )
    return ComponentSet(tuple(piece.names), weights, notes)


def _thin_rows(pieces: Sequence[_Piece], weights: sparse.csr_array, variants: AnalysedVariants) -> sparse.csr_array:
    if weights.shape[0] != variants.num_source:
        raise InputError(
            f"{pieces[0].text.path}: {weights.shape[0]} rows without SNP ids for the {variants.num_source} variants of "
            "the genotype files; give one row for each, or a file with CHR BP SNP CM"
        )
    return sparse.csr_array(weights[variants.rows])


def _locate_pieces(pieces: Sequence[_Piece], ids: pd.Series, variants: AnalysedVariants):
    offsets = np.cumsum([0, *(len(piece.ids) for piece in pieces)])

    def where(row: int) -> str:
        which = int(np.searchsorted(offsets, row, side="right")) - 1
        return pieces[which].text.where(1 + row - offsets[which])

    located = variants.locate(ids, where)
    # only analysed variants are looked at, since others may share a name such as "."
    again = ids.duplicated().to_numpy() & (located >= 0)
    if again.any():
        row = int(np.argmax(again))
        before = where(int(np.argmax((ids == ids[row]).to_numpy())))
        raise InputError(f"{where(row)}: variant {ids[row]} was in {before} before; annotate it once")
    notes: list[str] = []
    note_absent(notes, pieces[0].text.path, located, ids, variants)
    return located, tuple(notes)


def _read_annotation(path: Path) -> _Piece:
    """One file as sparse weights; numbers are parsed as such, and lines looked up only for an error."""
    layout = "a header CHR BP SNP CM and one column for each annotation"
    content = read_content(path, "annotation file")
    names = _header(content, layout)
    text = TextTable(content, WHITESPACE, pd.DataFrame())
    keys, id_column = variant_columns(f"{path}, header", names)
    name = next((names[k] for k, key in keys.items() if key == "frequency"), None)
    if name is not None:
        raise InputError(
            f"{path}: column {name} would be a component with allele frequencies as variances; remove it, or call it "
            f"{name}_weight if that is meant"
        )
    with_ids = id_column is not None
    annotations = [k for k in range(len(names)) if k not in keys]
    check_names(str(path), [names[k] for k in annotations])
    if not annotations:
        raise InputError(f"{text.where(0)}: expected {layout}, found no annotation")
    kinds = dict.fromkeys(annotations, np.float64) | ({id_column: str} if with_ids else {})
    table = _parse(content, len(names), kinds, layout)
    ids = table.pop(id_column) if with_ids else None
    values = table[annotations].to_numpy(np.float64)
    if table[len(names)].notna().any() or np.isnan(values).any():
        _raise_for_line(content, kinds, layout)
    good = (values >= 0) & (values <= MOST_WEIGHT)
    if not good.all():
        row, column = np.argwhere(~good)[0]
        variant = f"variant {ids[row]}" if with_ids else f"row {row + 1}"
        raise InputError(
            f"{text.where(1 + row)}: {variant}: expected a weight of 0 or more for annotation "
            f"{names[annotations[column]]}, found {values[row, column]:g}; variances are at most {MOST_WEIGHT:g}"
        )
    return _Piece(text, [names[k] for k in annotations], ids, sparse.csr_array(values))


def _header(content: Content, layout: str) -> list[str]:
    with content.text() as file:
        number, line = next(((number, line) for number, line in enumerate(file, 1) if line.strip()), (0, ""))
    if not line:
        raise InputError(f"{content.path} is empty; expected {layout}")
    count_fields(f"{content.path}, line {number}", line, WHITESPACE)
    return line.split()


def _parse(content: Content, width: int, kinds: dict[int, type], layout: str) -> pd.DataFrame:
    """The lines after the header by column, and a column more that a line too long would fill; numbers in ``kinds``."""
    # usecols would make pandas cut lines that are too long in silence, so every column is read
    words = {k: str for k in range(width + 1) if kinds.get(k, str) is str}
    missing = {"na_values": {k: [] for k in words if k != width}, "keep_default_na": False}
    options = {"sep": WHITESPACE, "header": None, "names": range(width + 1), "index_col": False, **missing}
    try:
        with content.text() as file, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas warns of lines that are longer still
            next(line for line in file if line.strip())
            table = pd.read_csv(file, dtype=kinds | words, quoting=csv.QUOTE_NONE, **options)
    except (ValueError, pd.errors.ParserWarning) as error:
        _raise_for_line(content, kinds, layout)
        raise InputError(f"{content.path}: cannot be read ({str(error).strip()}); check it") from None
    if not len(table):
        raise InputError(f"{content.path} has a header and no variant; expected {layout}")
    return table


def _raise_for_line(content: Content, kinds: dict[int, type], layout: str) -> None:
    """Parse again as strings, to name the line that is too short or too long, or holds what is no number."""
    table = text_table(content, layout, min_width=1, sep=WHITESPACE)
    for k, kind in kinds.items():
        numbers = pd.to_numeric(table.fields[k].iloc[1:], errors="coerce").to_numpy(np.float64)
        if kind is not str and np.isnan(numbers).any():
            row = 1 + int(np.argmax(np.isnan(numbers)))
            ids = next((table.fields.at[row, key] for key, other in kinds.items() if other is str), None)
            variant = f"row {row}" if ids is None else f"variant {ids}"
            raise InputError(
                f"{table.where(row)}: {variant}: expected a number for annotation {table.fields.at[0, k]}, "
                f"found {table.fields.at[row, k]!r}"
            )


def _read_ids(path: Path, what: str, layout: str, min_width: int) -> tuple[TextTable, int, int]:
    """A table of variants, its first row after the header, and the column of ids: the first where there is none."""
    table = read_text_table(path, what, layout, min_width)
    words = list(table.fields.iloc[0]) if len(table.fields) else []
    id_column = None
    if words and key_of(words[0], VARIANT_NAMES, COMPONENT_NAMES) is not None:
        _, id_column = variant_columns(table.where(0), words)
    first = int(id_column is not None)
    if len(table.fields) == first:
        raise InputError(f"{path}: the {what} has no variant; expected {layout} a line")
    return table, first, id_column or 0


def _table_columns(table: TextTable, first: int, id_column: int) -> dict[str, int]:
    """Positions of id, component and weight, if there is one: by name, or one after another where that is clear."""
    width = table.fields.shape[1]
    words = list(table.fields.iloc[0])
    found, keys = {"id": id_column}, {id_column: "id"}
    if first:
        keys, _ = variant_columns(table.where(0), words)
        for position, word in enumerate(words):
            key = key_of(word, COMPONENT_NAMES) if position not in keys else None
            if key is not None:
                found.setdefault(key, position)
    others = [k for k in range(width) if k not in {*found.values(), *keys}]
    if len(keys) == 1 and width <= 3:  # the columns that are not named are those that are lacking, in their order
        lacking = [key for key in ("component", "weight") if key not in found]
        found |= dict(zip(lacking, others, strict=False))
        others = others[len(lacking) :]
    if "component" not in found or others:
        raise InputError(
            f"{table.where(0)}: of the columns {' '.join(words)} it is not clear which are variant, component and "
            "weight; give these three, below the header variant_id component weight"
        )
    return found


def _check_once(table: TextTable, ids: pd.Series, keys: pd.Series, remedy: str) -> None:
    again = keys.duplicated()
    if again.any():
        row = again.idxmax()
        before = (keys == keys[row]).idxmax()
        raise InputError(f"{table.where(row)}: variant {ids[row]} was in line {table.line(before)} before; {remedy}")


def _locate(variants: AnalysedVariants, ids: pd.Series, table: TextTable, first: int, notes: list[str]) -> np.ndarray:
    located = variants.locate(ids, lambda row: table.where(first + row))
    note_absent(notes, table.path, located, ids, variants)
    return located


def note_absent(notes: list[str], path: Path, located: np.ndarray, ids: pd.Series, variants: AnalysedVariants) -> None:
    """Count the ids that are not analysed; InputError where all are, which a wrong naming scheme explains."""
    absent = located < 0
    if absent.all():
        raise InputError(
            f"{path}: none of its {len(ids)} variants is analysed: it has {ids.iloc[0]}, the genotypes have "
            f"{variants.table['id'].iloc[0]}; use one naming scheme, or loosen the variant filters"
        )
    if absent.any():
        notes.append(
            f"{path}: {int(absent.sum())} of {len(ids)} variants are not analysed ({first_words(ids[absent])})"
        )
