"""The deployed form of a model: an eval-only, fused copy that is checked against its module when it
is made.

    fast = deploy(create_model("tiny_vit_21m_224", weights="tiny_vit_21m.pth"))
    fast(images), fast.report

``kernels.py`` has the operators, ``tiny_vit.py`` and ``deit.py`` the two families, ``folded.py``
any other network and ``form.py`` what all deployed forms share.
"""

from .command import deploy_for_command
from .form import Deployed, DeployedFormError, DeployReport, SizeCheck
from .make import deploy

__all__ = ["DeployReport", "Deployed", "DeployedFormError", "SizeCheck", "deploy", "deploy_for_command"]
