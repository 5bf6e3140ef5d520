"""The Hub: pull, publish, publish_space, discover and validate; every problem is a HubError."""

from sharingan_hub.checkpoints.folder import KNOWN_GENERATORS as KNOWN_GENERATORS
from sharingan_hub.checkpoints.folder import WEIGHTS as WEIGHTS
from sharingan_hub.checkpoints.folder import expected_bytes as expected_bytes
from sharingan_hub.checkpoints.folder import read_generator as read_generator
from sharingan_hub.checkpoints.folder import validate as validate
from sharingan_hub.checkpoints.strict import CheckpointError as CheckpointError
from sharingan_hub.checkpoints.strict import HubError as HubError
from sharingan_hub.checkpoints.strict import read_json as read_json
from sharingan_hub.checkpoints.strict import read_weights as read_weights
from sharingan_hub.hub.client import AccessError as AccessError
from sharingan_hub.hub.client import ConflictError as ConflictError
from sharingan_hub.hub.client import RateLimitError as RateLimitError
from sharingan_hub.hub.client import RejectedError as RejectedError
from sharingan_hub.hub.client import RepositoryError as RepositoryError
from sharingan_hub.hub.client import UnreachableError as UnreachableError
from sharingan_hub.hub.deploying import publish_space as publish_space
from sharingan_hub.hub.fetching import DEFAULT as DEFAULT
from sharingan_hub.hub.fetching import locate as locate
from sharingan_hub.hub.fetching import pull as pull
from sharingan_hub.hub.finding import ModelEntry as ModelEntry
from sharingan_hub.hub.finding import discover as discover
from sharingan_hub.hub.publishing import Published as Published
from sharingan_hub.hub.publishing import check_login as check_login
from sharingan_hub.hub.publishing import publish as publish
