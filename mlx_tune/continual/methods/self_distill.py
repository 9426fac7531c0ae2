"""Self-distillation: on old rows the model is held to what it says itself before it learns.

Paper:
    Li and Hoiem 2016, arXiv:1606.09282 (Learning without Forgetting). Yang et al. 2024,
    arXiv:2402.13669 (SDFT), also let a model be its own teacher, through answers that it rewrites.
Idea:
    The teacher is the folded model: the student with its adapter scaled to 0, so there is no
    second model to hold. A taught token is one word; a distribution also says which words would
    have been nearly as good, so it ties down more of what the model does.
Equation:
    loss = Σ_n w_n KL(p_n ‖ q_n),  KL(p ‖ q) = Σ_v p_v (log p_v − log q_v)
    where p = softmax(teacher) and q = softmax(student), so d loss / d student = w (q − p)

The paper softens both with a temperature of 2 and so raises the unlikely words; it is 1 here,
because an answer is known when its likeliest words are kept, not its unlikely ones. It is computed
in ``training/loss.py``.
"""

from mlx_tune.continual.methods.method import Method

METHOD = Method(name="self_distill", distils=True)
