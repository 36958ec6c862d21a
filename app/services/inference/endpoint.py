"""The address of a provider, for people."""


def shown_endpoint(endpoint: str) -> str:
    """An endpoint as it may be shown: without user, password and query. What cannot be read as a URL is not shown at all."""
    if not endpoint:
        return ""
    from yarl import URL  # a node whose providers have no address does without it

    try:
        return str(URL(endpoint).with_user(None).with_query(None))
    except ValueError:
        return "an address that is no URL"
