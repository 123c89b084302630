"""Operations of language models in fewer passes over memory than their libraries take."""
