"""Other people's clients work against the server: cohere and openai, as they are."""

import cohere
import httpx
import httpx2
import openai
import pytest
from halls import DOCUMENTS, ask, hall_of

from serving.reranker import Reranker
from serving.server.app import create_app

KEY = "a key of sixteen letters or more"


def test_cohere_reranks_by_both_versions(reranker: Reranker) -> None:
    hall = hall_of(reranker, api_key=KEY)
    expected = [each.index for each in reranker.rank("sort the file", DOCUMENTS, top_k=3)]

    async def talk(client: httpx.AsyncClient) -> None:
        options = {"api_key": KEY, "base_url": "http://localhost", "httpx_client": client}
        second = await cohere.AsyncClientV2(**options).rerank(
            model="tiny", query="sort the file", documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096
        )
        assert [each.index for each in second.results] == expected
        assert second.meta is not None and second.meta.api_version is not None
        assert second.meta.api_version.version == "2"
        first = await cohere.AsyncClient(**options).rerank(
            model="tiny", query="sort the file", documents=DOCUMENTS, top_n=3, return_documents=True
        )
        assert [each.index for each in first.results] == expected
        assert [each.document.text for each in first.results if each.document] == [DOCUMENTS[k] for k in expected]
        assert [each.relevance_score for each in first.results] == [each.relevance_score for each in second.results]

    ask(hall, talk)


def test_cohere_raises_its_own_errors(reranker: Reranker) -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        options = {"base_url": "http://localhost", "httpx_client": client}
        known = cohere.AsyncClientV2(api_key=KEY, **options)
        with pytest.raises(cohere.UnauthorizedError):
            await cohere.AsyncClientV2(api_key="wrong", **options).rerank(model="tiny", query="a", documents=["b"])
        with pytest.raises(cohere.NotFoundError, match="no ranker 'other' that can rerank; there are: tiny"):
            await known.rerank(model="other", query="a", documents=["b"])
        with pytest.raises(cohere.BadRequestError, match="there are no documents"):
            await known.rerank(model="tiny", query="a", documents=[])

    ask(hall_of(reranker, api_key=KEY), talk)


def test_openai_lists_the_rankers(reranker: Reranker) -> None:
    hall = hall_of(reranker, api_key=KEY)

    async def talk(client: httpx.AsyncClient) -> None:
        transport = httpx2.ASGITransport(create_app(hall))
        async with httpx2.AsyncClient(transport=transport) as own:
            api = openai.AsyncOpenAI(api_key=KEY, base_url="http://localhost/v1", http_client=own, max_retries=0)
            assert [each.id for each in (await api.models.list()).data] == ["tiny"]
            assert (await api.models.retrieve("tiny")).owned_by == "rankers"
            with pytest.raises(openai.NotFoundError, match="no ranker 'other'"):
                await api.models.retrieve("other")
            with pytest.raises(openai.AuthenticationError, match="a valid API key is missing"):
                await api.with_options(api_key="wrong").models.list()

    ask(hall, talk)


def test_a_server_without_rankers_is_listed_as_empty() -> None:
    hall = hall_of()
    assert ask(hall, lambda client: client.get("/v1/models")).json() == {"object": "list", "data": []}
