"""Proxies: scores of untrained networks, one a file; each says which way it points and what it reads."""

from netwright.core.catalogue import catalogue
from netwright.estimate.proxies.attention_confidence import AttentionConfidence as AttentionConfidence
from netwright.estimate.proxies.entropy import Entropy as Entropy
from netwright.estimate.proxies.epe_nas import EPENAS as EPENAS
from netwright.estimate.proxies.fisher import Fisher as Fisher
from netwright.estimate.proxies.grad_norm import GradNorm as GradNorm
from netwright.estimate.proxies.gradsign import GradSign as GradSign
from netwright.estimate.proxies.grasp import GraSP as GraSP
from netwright.estimate.proxies.head_importance import HeadImportance as HeadImportance
from netwright.estimate.proxies.hidden_covariance import HiddenCovariance as HiddenCovariance
from netwright.estimate.proxies.jacob_cov import JacobCov as JacobCov
from netwright.estimate.proxies.l2_norm import L2Norm as L2Norm
from netwright.estimate.proxies.macs import MACs as MACs
from netwright.estimate.proxies.naswot import NASWOT as NASWOT
from netwright.estimate.proxies.parameters import Parameters as Parameters
from netwright.estimate.proxies.plain import Plain as Plain
from netwright.estimate.proxies.proxy import Proxy as Proxy
from netwright.estimate.proxies.snip import SNIP as SNIP
from netwright.estimate.proxies.synflow import SynFlow as SynFlow
from netwright.estimate.proxies.zen import Zen as Zen
from netwright.estimate.proxies.zico import ZiCo as ZiCo

CATALOGUE = catalogue(globals(), Proxy, "proxy")
