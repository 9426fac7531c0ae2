"""A base's tokenizer, as the program asks it."""

import logging

from helpers import tiny


def test_a_text_longer_than_the_model_reads_leaves_no_warning_in_the_log(caplog):
    """It is refused with a message of our own."""
    tokenizer = tiny.tokenizer()
    tokenizer.wrapper._tokenizer.model_max_length = 2
    log = logging.getLogger("transformers.tokenization_utils_base")
    log.addHandler(caplog.handler)
    try:
        assert min(len(tokenizer.encode("a b c d")), len(tokenizer.encode_plain("a b c d"))) > 2
        assert caplog.records == []
        tokenizer.wrapper.encode("a b c d")  # would say it
        assert "sequence length is longer" in caplog.text
    finally:
        log.removeHandler(caplog.handler)
