"""Operations whose stock form is slow on some backend, each equal to the stock form in value and gradient."""
