return {'done', 1}
