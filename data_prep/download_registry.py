"""What can be fetched from where, and on which terms."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """Files that belong together, a set of them for each part.

  Attributes:
    urls: Where they are; `{part}` stands for the part.
    part: What a part is, and how it is spelled.
    terms: Told before anything is fetched.
    has_md5: Whether upstream has a checksum of `url` at `url`.md5.
    lack_md5: Parts that may be without one all the same.
  """

  urls: tuple[str, ...]
  part: str
  terms: str
  has_md5: bool = False
  lack_md5: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Known:
  """What a file must be; upstream of reviews publishes no checksums."""

  num_bytes: int
  sha256: str


_MCAULEY = 'https://mcauleylab.ucsd.edu/public_datasets'
_AMAZON_2018 = f'{_MCAULEY}/data/amazon_v2'
_AMAZON_2023 = f'{_MCAULEY}/data/amazon_2023/raw'
_SNAP = 'https://snap.stanford.edu/data/amazon/productGraph/categoryFiles'
_GOOGLE = f'{_MCAULEY}/gdrive/googlelocal'
_CATEGORY = 'a category as the site spells it, as'
_REVIEW_TERMS = """\
These are reviews by real people. They come without an open licence: use them
for research, and do not pass them on.
"""

SOURCES = {
    'movielens': Source(
        urls=('https://files.grouplens.org/datasets/movielens/ml-{part}.zip',),
        part='100k, 1m, 20m, 32m or latest-small',
        terms="""\
MovieLens is (c) GroupLens, University of Minnesota. It may be used for
research; it may not be redistributed, or used commercially, without their
permission. Cite F. M. Harper and J. A. Konstan, "The MovieLens Datasets:
History and Context", ACM TiiS 5(4), 2015. The README in the zip has the terms.
""",
        has_md5=True,
        # GroupLens lists it as subject to change.
        lack_md5=('latest-small',),
    ),
    'amazon_2014_5core': Source(
        urls=(
            _SNAP + '/reviews_{part}_5.json.gz',
            _SNAP + '/meta_{part}.json.gz',
        ),
        part=f'{_CATEGORY} Beauty',
        terms=_REVIEW_TERMS + 'Cite R. He and J. McAuley, WWW 2016.\n',
    ),
    'amazon_2018_5core': Source(
        urls=(
            _AMAZON_2018 + '/categoryFilesSmall/{part}_5.json.gz',
            _AMAZON_2018 + '/metaFiles2/meta_{part}.json.gz',
        ),
        part=f'{_CATEGORY} All_Beauty',
        terms=_REVIEW_TERMS + 'Cite J. Ni, J. Li and J. McAuley, EMNLP 2019.\n',
    ),
    'amazon_2018': Source(
        urls=(
            _AMAZON_2018 + '/categoryFiles/{part}.json.gz',
            _AMAZON_2018 + '/metaFiles2/meta_{part}.json.gz',
        ),
        part=f'{_CATEGORY} All_Beauty',
        terms=_REVIEW_TERMS + 'Cite J. Ni, J. Li and J. McAuley, EMNLP 2019.\n',
    ),
    'amazon_2023': Source(
        urls=(
            _AMAZON_2023 + '/review_categories/{part}.jsonl.gz',
            _AMAZON_2023 + '/meta_categories/meta_{part}.jsonl.gz',
        ),
        part=f'{_CATEGORY} All_Beauty',
        terms=_REVIEW_TERMS + 'Cite Y. Hou et al., arXiv 2403.03952.\n',
    ),
    'google_local_10core': Source(
        urls=(
            _GOOGLE + '/review-{part}_10.json.gz',
            _GOOGLE + '/meta-{part}.json.gz',
        ),
        part='a state, as Vermont or New_York',
        terms=_REVIEW_TERMS
        + 'Cite J. Li, J. Shang and J. McAuley, ACL 2022.\n',
    ),
    'google_local': Source(
        urls=(
            _GOOGLE + '/review-{part}.json.gz',
            _GOOGLE + '/meta-{part}.json.gz',
        ),
        part='a state, as Vermont or New_York',
        terms=_REVIEW_TERMS
        + 'Cite J. Li, J. Shang and J. McAuley, ACL 2022.\n',
    ),
}

# By the URL's end; of those that are not here it is unknown.
KNOWN = {
    'amazon_v2/categoryFilesSmall/All_Beauty_5.json.gz': Known(
        num_bytes=633_507,
        sha256=(
            '4a6b1eb40c4f58328f3f34181a6ef00f8e3423d801128617cc408a83c9bd0027'
        ),
    ),
    'googlelocal/meta-Vermont.json.gz': Known(
        num_bytes=2_465_638,
        sha256=(
            '2b7eb851d834b9e6d49bef80f5fe0219213266e66f3fda32d452bdc4611c4255'
        ),
    ),
}
